"""Cell graphs arrive here: building them, the survival network, relevance over graphs.

The package is still empty; it may use ``neuralize`` and never ``xai``.
"""

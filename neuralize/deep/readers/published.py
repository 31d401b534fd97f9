"""Constants the authors of Deep SVDD computed once on their training data, per normal class.

Extremes of the pictures after subtracting each one's mean and dividing by its mean absolute
deviation, as in :class:`neuralize.deep.preprocessing.ContrastNormalize`. Deep-SVDD-PyTorch uses
those of MNIST and CIFAR-10, fcdd those of Fashion-MNIST and CIFAR-10.
"""

from __future__ import annotations

from neuralize.errors import InputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation per channel that most pretrained networks expect."""

CONTRAST: dict[str, tuple[tuple[float, float], ...]] = {
    "mnist": (
        (-0.8826567065619495, 9.001545489292527),
        (-0.6661464580883915, 20.108062262467364),
        (-0.7820454743183202, 11.665100841080346),
        (-0.7645772083211267, 12.895051191467457),
        (-0.7253923114302238, 12.683235701611533),
        (-0.7698501867861425, 13.103278415430502),
        (-0.778418217980696, 10.457837397569108),
        (-0.7129780970522351, 12.057777597673047),
        (-0.8280402650205075, 10.581538445782988),
        (-0.7369959242164307, 10.697039838804978),
    ),
    "fmnist": (
        (-2.681239128112793, 24.85430908203125),
        (-2.5778584480285645, 11.169795989990234),
        (-2.808171510696411, 19.133548736572266),
        (-1.9533653259277344, 18.65673065185547),
        (-2.6103856563568115, 19.166685104370117),
        (-1.2358522415161133, 28.463092803955078),
        (-3.251605987548828, 24.196823120117188),
        (-1.0814440250396729, 16.878812789916992),
        (-3.6560964584350586, 11.3502836227417),
        (-1.3859291076660156, 11.426650047302246),
    ),
    "cifar10": (
        (-28.94083453598571, 13.802961825439636),
        (-6.681770233365245, 9.158067708230273),
        (-34.924463588638204, 14.419298165027628),
        (-10.599172931391799, 11.093187820377565),
        (-11.945022995801637, 10.628045447867583),
        (-9.691969487694928, 8.948326776180823),
        (-9.174940012342555, 13.847014686472365),
        (-6.876682005899029, 12.282371383343161),
        (-15.603507135507172, 15.2464923804279),
        (-6.132882973622672, 8.046098172351265),
    ),
}


def contrast_of(name: str) -> tuple[float, float]:
    """Lowest and highest contrast of ``"data:class"``.

    Raises
    ------
    InputError
        Data or a class that nothing was published for.

    Examples
    --------
    >>> contrast_of("mnist:3")
    (-0.7645772083211267, 12.895051191467457)
    """
    data, _, label = name.partition(":")
    if data not in CONTRAST or not label.isdecimal() or int(label) >= len(CONTRAST[data]):
        known = ", ".join(f"{key}:0-9" for key in CONTRAST)
        raise InputError(
            f"Expected contrast as (low, high), or the normal class the network was trained on as "
            f"one of {known}, got {name!r}."
        )
    return CONTRAST[data][int(label)]

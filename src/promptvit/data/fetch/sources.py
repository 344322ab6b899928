"""Where data sets are downloaded from, and what a download must hash to.

A checksum is here only where somebody published it for these very bytes; the comment says who. An entry without one is reported as
``unverified``. Addresses are tried in order: official first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from promptvit.data.listed.tasks import VTAB
from promptvit.data.torchvision_sets import HTA
from promptvit.errors import unknown


@dataclass(frozen=True)
class Download:
    """One file.

    Attributes:
        file: its name.
        into: folder below the data root in which it is unpacked, or kept if it is no archive.
        checksum: ``md5:...``, ``sha1:...`` or ``sha256:...``; empty where none is published.
        urls: addresses of the same bytes; none where no program may or can fetch it.
    """

    file: str
    into: str
    checksum: str
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """The files of a data set, and what its user should know about them."""

    downloads: tuple[Download, ...]
    note: str = ""


def find(name: str) -> Source | None:
    """Where ``name`` comes from; None where torchvision has the address itself.

    Raises:
        ValueError: an unknown name, or a set that needs no download.
    """
    if name == "digits" or name.startswith(("proc/", "proc-dev/")):
        raise ValueError(f"{name} needs no download: it comes with the package")
    if name == "folder":
        raise ValueError("folder needs no download: it reads your own images, one folder per class, below --data-root")
    suite, _, task = name.partition("/")
    if suite == "vtab" and (not task or task in VTAB):
        return _VTAB
    if name in SOURCES:
        return SOURCES[name]
    if name in VIA_TORCHVISION:
        return None
    raise ValueError(unknown("data set", name, names()))


def names() -> list[str]:
    """Names that :func:`find` knows."""
    return sorted([*SOURCES, *VIA_TORCHVISION, *(f"vtab/{task}" for task in VTAB)])


def _at(address: str, checksum: str, into: str = "") -> Download:
    return Download(address.rpartition("/")[2], into, checksum, (address,))


def _below(address: str, checksums: Iterable[tuple[str, str]], into: str) -> tuple[Download, ...]:
    return tuple(_at(f"{address}/{file}", checksum, into) for file, checksum in checksums)


def _flowers(into: str) -> Source:
    files = (  # MD5: torchvision
        ("102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa"),
        ("imagelabels.mat", "md5:e0620be6f572b9609742df49c70aed4d"),
        ("setid.mat", "md5:a5357ecc9cb78c4bef273ce3793fc85c"),
    )
    return Source(_below("https://www.robots.ox.ac.uk/~vgg/data/flowers/102", files, into))


_CARS_COPY = "https://huggingface.co/datasets/XiN0919/FGVC/resolve/921e8dce38536cd5982739d85d5e9235d2cb2a76"

_FGVC = {
    "fgvc/cub": Source((  # MD5: CaltechDATA
        _at("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz", "md5:97eceeb196236b17998738112f37df78"),
    )),
    "fgvc/dogs": Source(_below(  # SHA-256: TensorFlow Datasets
        "http://vision.stanford.edu/aditya86/ImageNetDogs",
        (
            ("images.tar", "sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58"),
            ("lists.tar", "sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c"),
        ),
        "StanfordDogs",
    )),
    "fgvc/flowers": _flowers("OxfordFlowers"),
    "fgvc/cars": Source(
        _below(  # MD5 of the files that Stanford gave out, as metric-learning libraries check them
            _CARS_COPY,
            (("car_ims.tgz", "md5:d5c8f0aa497503f355e17dc7886c3f14"), ("cars_annos.mat", "md5:b407c6086d669747186bd1d764ff9dbc")),
            "StanfordCars",
        ),
        "the official address is gone; this is a third party's copy, checked against the checksums of the original files",
    ),
    "fgvc/nabirds": Source(
        (Download("nabirds.tar.gz", "", "md5:df21a9e4db349a14e2b08adfd45873bd"),),  # MD5: the data set classes of several projects
        "its terms of use must be accepted in a browser: https://dl.allaboutbirds.org/nabirds",
    ),
}

_VTAB = Source(
    (_at("https://huggingface.co/datasets/XiN0919/VTAB-1k/resolve/main/vtab-1k.zip", ""),),
    "all 19 tasks in one archive, a third party's folder copy made from TensorFlow Datasets; nobody publishes an official one",
)

_GTSRB = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"
_TORCHVISION = {  # addresses and MD5: torchvision, which publishes no MD5 for Aircraft
    "cifar10": (_at("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a"),),
    "cifar100": (_at("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85"),),
    "country211": (_at("https://openaipublic.azureedge.net/clip/data/country211.tgz", "md5:84988d7644798601126c29e9877aab6a"),),
    "dtd": (_at("https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz", "md5:fff73e5086ae6bdbea199a49dfb8a4c1", "dtd"),),
    "eurosat": (_at(
        "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
        "md5:c8fa014336c82ac7804f0398fcb19387", "eurosat",
    ),),
    "fgvcaircraft": (_at("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz", ""),),
    "flowers102": _flowers("flowers-102").downloads,
    "food101": (_at("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "md5:85eeb15f3717b99a5da872d97d918f87"),),
    "gtsrb": _below(
        _GTSRB,
        (
            ("GTSRB-Training_fixed.zip", "md5:513f3c79a4c5141765e10e952eaa2478"),
            ("GTSRB_Final_Test_Images.zip", "md5:c7e4e6327067d32654124b0fe9e82185"),
            ("GTSRB_Final_Test_GT.zip", "md5:fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
        ),
        "gtsrb",
    ),
    "oxfordiiitpet": _below(
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data",
        (
            ("images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            ("annotations.tar.gz", "md5:95a8c909bbe2e81eed6a22bccdf3f68f"),
        ),
        "oxford-iiit-pet",
    ),
    "renderedsst2": (_at("https://openaipublic.azureedge.net/clip/data/rendered-sst2.tgz", "md5:2384d08e9dcfa4bd55b324e610496ee5"),),
    "stl10": (_at("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "md5:91f7769df0f17e558f3565bffb0c7dfb"),),
    "sun397": (_at("http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz", "md5:8ca2778205c41d23104230ba66911c7a"),),
    "svhn": _below(
        "http://ufldl.stanford.edu/housenumbers",
        (("train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373"), ("test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3")),
        "",
    ),
}
_CARS_PARTS = ("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz", "cars_test_annos_withlabels.mat")
_CARS_SHA256 = (  # TensorFlow Datasets
    "512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288",
    "bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243",
    "b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
    "790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
)

VIA_TORCHVISION = ("torchvision/caltech101", "torchvision/fashionmnist", "torchvision/kmnist", "torchvision/mnist")  # small

SOURCES: dict[str, Source] = {
    **_FGVC,
    **{f"torchvision/{short}": Source(downloads) for short, downloads in _TORCHVISION.items()},
    **{f"hta/{short}": Source(_TORCHVISION[short]) for short in HTA},
    "torchvision/stanfordcars": Source(
        tuple(Download(file, "stanford_cars", f"sha256:{hexed}") for file, hexed in zip(_CARS_PARTS, _CARS_SHA256, strict=True)),
        "the official address is gone",
    ),
    "ade20k": Source((  # SHA-1: GluonCV
        _at("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip", "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7"),
    )),
}

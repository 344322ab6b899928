"""The tasks of FGVC and VTAB-1k: classes and counts as published, and the folder names under which copies are found.

FGVC counts are those of the VPT paper (table of data sets), VTAB's those of its TFDS splits. The number of classes is never taken from a
split: SUN397 has images of 309 of its 397 classes in train800.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What is known of a data set before its files are seen.

    Attributes:
        name: what it is loaded by, after the suite's own ``fgvc/`` or ``vtab/``.
        group: ``fgvc``, ``natural``, ``specialized`` or ``structured``.
        classes: how many there are.
        train, val, test: how many images are expected.
        folders: names that its folder goes by, beside its own.
        images: folder of the images, to which the paths in FGVC's json lists are relative.
        first_id: the lowest class id in the published lists.
        scattered: class ids leave gaps, as NABirds' do: a class is a leaf of its hierarchy.
        twins: share of training images that may be in another split as well because the set's making repeats pictures.
    """

    name: str
    group: str
    classes: int
    train: int
    val: int
    test: int
    folders: tuple[str, ...] = ()
    images: str = "."
    first_id: int = 0
    scattered: bool = False
    twins: float = 0.0

    @property
    def folder_names(self) -> frozenset[str]:
        """Names of its folder, each as :func:`plain` writes it."""
        return frozenset(map(plain, (self.name, *self.folders)))


def plain(name: str) -> str:
    """A folder name without case, spaces and punctuation: ``CUB_200-2011`` is ``cub2002011``."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _fgvc(
    name: str, classes: int, counts: tuple[int, int, int], images: str, *folders: str, first_id: int = 1, scattered: bool = False
) -> Task:
    return Task(name, "fgvc", classes, *counts, folders, images, first_id, scattered)


def _vtab(group: str, name: str, classes: int, test: int, *folders: str, twins: float = 0.0) -> Task:
    return Task(name, group, classes, 800, 200, test, folders, twins=twins)


FGVC = {
    task.name: task
    for task in (
        _fgvc("cub", 200, (5394, 600, 5794), "images", "CUB_200_2011", "CUB200"),
        _fgvc("nabirds", 555, (21536, 2393, 24633), "images", first_id=0, scattered=True),
        _fgvc("flowers", 102, (1020, 1020, 6149), ".", "OxfordFlowers", "OxfordFlowers102", "Flowers102"),
        _fgvc("dogs", 120, (10800, 1200, 8580), "Images", "StanfordDogs"),
        _fgvc("cars", 196, (7329, 815, 8041), ".", "StanfordCars", "Cars196"),
    )
}

# dSprites draws an orientation of 0 and of 360 degrees, the same picture: one image in 20 has a twin, for 10 % of which that is in test.
_TURNED = 0.02

VTAB = {
    task.name: task
    for task in (
        _vtab("natural", "cifar", 100, 10000, "cifar100"),
        _vtab("natural", "caltech101", 102, 6084, "caltech"),
        _vtab("natural", "dtd", 47, 1880),
        _vtab("natural", "oxford_flowers102", 102, 6149, "flowers102", "oxford_flowers"),
        _vtab("natural", "oxford_iiit_pet", 37, 3669, "oxford_iiit_pets", "oxford_pet", "oxford_pets", "pet", "pets"),
        _vtab("natural", "svhn", 10, 26032),
        _vtab("natural", "sun397", 397, 21750, "sun"),
        _vtab("specialized", "patch_camelyon", 2, 32768, "camelyon", "pcam"),
        _vtab("specialized", "eurosat", 10, 5400),
        _vtab("specialized", "resisc45", 45, 6300, "resisc"),
        _vtab("specialized", "diabetic_retinopathy", 5, 42670, "retinopathy"),
        _vtab("structured", "clevr_count", 8, 15000),
        _vtab("structured", "clevr_dist", 6, 15000, "clevr_distance"),
        _vtab("structured", "dmlab", 6, 22735),
        _vtab("structured", "kitti", 4, 711, "kitti_dist", "kitti_distance"),
        _vtab("structured", "dsprites_loc", 16, 73728, "dsprites_location", "dsprites_position", twins=_TURNED),
        _vtab("structured", "dsprites_ori", 16, 73728, "dsprites_orientation", twins=_TURNED),
        _vtab("structured", "smallnorb_azi", 18, 12150, "smallnorb_azimuth"),
        _vtab("structured", "smallnorb_ele", 9, 12150, "smallnorb_elevation"),
    )
}

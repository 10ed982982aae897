# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Which chips of OMBRIA's training folders belong together."""

#: First and last numbers of runs of chips.
Runs = tuple[tuple[int, int], ...]

# Training chips whose floods SAR hardly shows: within land, smoothed SAR (standard deviation
# 1.5 pixels) tells flooded from other pixels with an area under the ROC curve of 0.8 or less.
# Made by `python -m benchmarks.visibility`
_HIDDEN = (
    27, 28, 29, 55, 76, 81, 97, 102, 128, 131, 132, 146, 153, 154, 155, 164, 181, 193,
    234, 267, 313, 314, 315, 318, 320, 324, 325, 327, 328, 330, 331, 332, 333, 334, 335,
    336, 337, 339, 341, 407, 436, 437, 449, 485, 499, 500, 505, 506, 511, 512, 514, 515,
    518, 519, 520, 521, 522, 524, 525, 526, 527, 528, 536, 538, 539, 542, 543, 544, 545,
    546, 547, 548, 549, 552, 553, 554, 556, 557, 560, 561, 563, 570, 575, 581, 582, 583,
    590, 601, 603, 608, 609, 610, 618, 626, 633, 634, 644, 656, 660, 673, 674, 675, 676,
    677, 683, 684, 685, 686, 689, 690, 691, 692, 693, 694, 698, 699, 700, 701, 703, 708,
    710, 711, 712, 714, 718, 759, 760, 762, 763, 764, 765, 766, 769, 774, 775, 776, 781,
    783, 785, 787,
)

#: Groups of scenes, and the chips whose floods are hidden. Jumps of the median colour and SAR
#: value divide the chips into 24 segments. 'dry' and 'green' are the segments that differ most
#: from the rest.
GROUPS: dict[str, Runs] = {
    'dry': ((1, 31), (313, 341)),
    'green': ((342, 435),),
    'fields': ((32, 79), (256, 312)),
    'rivers': ((80, 255), (721, 790)),
    'plain': ((436, 720),),
    'hidden': tuple((number, number) for number in _HIDDEN),
}

#: The validation split. Its 73 chips include dry and green scenes, and 30 % of their pixels are
#: flooded (33 % in the training split).
VAL_NUMBERS: Runs = ((22, 31), (37, 73), (563, 602), (721, 734), (755, 771))

"""What an image is made of: its layers by role, what a change of each costs a node, and how two images differ."""

from .costs import Move, between, change, placed_well
from .difference import Change, Difference, RoleChange
from .inspection import CheckpointFacts, Inspection
from .layers import Amount, InspectedLayer
from .look import diff, inspect
from .page import difference_page, inspection_page
from .peek import File, Tensors

__all__ = [
    "Amount",
    "Change",
    "CheckpointFacts",
    "Difference",
    "File",
    "InspectedLayer",
    "Inspection",
    "Move",
    "RoleChange",
    "Tensors",
    "between",
    "change",
    "diff",
    "difference_page",
    "inspect",
    "inspection_page",
    "placed_well",
]

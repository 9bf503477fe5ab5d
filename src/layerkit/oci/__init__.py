"""Images as immutable values, by the OCI image specification. Pure: nothing here reads, writes or connects."""

from .compose import CREATED, compose, layers_image
from .descriptor import MEDIA, Descriptor, Platform, as_oci
from .digest import Digest
from .image import Config, Image, Layer
from .manifest import MAX_LAYERS, MAX_MANIFEST_SIZE, Index, Manifest, dump, parse_manifest
from .reference import Reference

__all__ = [
    "CREATED",
    "MAX_LAYERS",
    "MAX_MANIFEST_SIZE",
    "MEDIA",
    "Config",
    "Descriptor",
    "Digest",
    "Image",
    "Index",
    "Layer",
    "Manifest",
    "Platform",
    "Reference",
    "as_oci",
    "compose",
    "dump",
    "layers_image",
    "parse_manifest",
]

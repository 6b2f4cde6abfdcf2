"""Distilled images on disk: layout, atomic and resumable writing, manifest and contact sheet."""

from mgd3_fast.writers.contact_sheet import write_contact_sheet, write_image_sheet
from mgd3_fast.writers.layout import Layout, class_folder, layout_of
from mgd3_fast.writers.manifest import MANIFEST, json_with_images, read_manifest, write_manifest
from mgd3_fast.writers.out_files import check_own, check_writable, file_digest, sha256_of, unwritable_error
from mgd3_fast.writers.png import PngWriter, WorkQueue, write_png
from mgd3_fast.writers.run_folder import (
    CONTACT_SHEET,
    MODE_PLOTS,
    MODES,
    WORK,
    RunFolder,
    check_ours,
)

__all__ = [
    "CONTACT_SHEET",
    "MANIFEST",
    "MODES",
    "MODE_PLOTS",
    "WORK",
    "Layout",
    "PngWriter",
    "RunFolder",
    "WorkQueue",
    "check_ours",
    "check_own",
    "check_writable",
    "class_folder",
    "file_digest",
    "json_with_images",
    "layout_of",
    "read_manifest",
    "sha256_of",
    "unwritable_error",
    "write_contact_sheet",
    "write_image_sheet",
    "write_manifest",
    "write_png",
]

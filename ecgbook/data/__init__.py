"""From records to data sets: folders, groups, splits, downloads."""

from .dataset import ECGDataset, from_arrays, from_records, trim
from .folder import data_folder, from_folder, read_manifest
from .groups import join_records, signal_hash
from .physionet import DownloadError, download, read_list
from .splits import leave_one_database_out, patient_folds, split_by_patient

__all__ = [
    "ECGDataset",
    "from_arrays",
    "from_records",
    "trim",
    "data_folder",
    "from_folder",
    "read_manifest",
    "join_records",
    "signal_hash",
    "leave_one_database_out",
    "patient_folds",
    "split_by_patient",
    "DownloadError",
    "download",
    "read_list",
]

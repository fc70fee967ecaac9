"""ecgbook: the package of the ECG book."""

__version__ = "0.1.0"

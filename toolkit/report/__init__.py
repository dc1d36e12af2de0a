"""The report of a run as one self-contained page: it shows what report.json holds and computes nothing."""

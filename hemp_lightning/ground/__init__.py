"""What everything stands on: scan orders, bits and bytes, compiled loops, threads."""

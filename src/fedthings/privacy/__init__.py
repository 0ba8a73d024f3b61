"""What protects a report: clipping, and shares by which nobody sees it; noise and accounting as they come."""

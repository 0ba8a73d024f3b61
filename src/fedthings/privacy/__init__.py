"""What protects a report: clipping now; noise, shares and accounting as they come."""

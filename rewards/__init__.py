"""The rewards of the paper (section 4.3) as pure functions: label, localisation, format, and their weighted sum."""

"""The report: figures described once and drawn twice, sections in a fixed order, a page and a Markdown file."""

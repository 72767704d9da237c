"""From run directories to tables and figures; reads files only."""

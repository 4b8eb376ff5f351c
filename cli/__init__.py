"""The command line: flags become one library call, its result gets printed."""

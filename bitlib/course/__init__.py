"""Everything that only the course needs: claims, exercises, notebook set-up, plots, interactive figures, the benchmark.

The library never imports from here, so it can be read and used without this folder.
"""

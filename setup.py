"""Map the three import packages to their top-level folders; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(".", include=["mgd3_fast", "mgd3_fast.*"]),
        *find_packages("engine"),
        *find_packages("kernels"),
    ],
    package_dir={
        "mgd3_engine": "engine/mgd3_engine",
        "mgd3_kernels": "kernels/mgd3_kernels",
    },
    package_data={
        "mgd3_fast": ["py.typed", "datasets/classlists/*", "generators/demo_mnist5k/**/*", "report/*.j2"],
        "mgd3_engine": ["py.typed"],
        "mgd3_kernels": ["py.typed"],
    },
)

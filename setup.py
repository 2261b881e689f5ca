"""Packaging that pyproject.toml cannot say: the twistd plugin goes into Twisted's own plugin folder."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["kes", "kes.*"]), "twisted.plugins"],
    package_data={"kes": ["py.typed"]},
)

"""A list of erasures from one file: `python commands/batch jobs.yaml`, or `python run.py batch jobs.yaml`."""

from commands import inprocess

inprocess.as_package()  # before anything here is imported, in a worker of another machine too

"""Datasets as netCDF4 and tables as CSV, written whole or not at all."""

from pathlib import Path

import pandas as pd
import xarray as xr

from jaxdissect.errors import InputError
from jaxdissect.runtime.files import whole_file

COMPRESSED_SIZE = 1024  # elements above which an array is compressed


def write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset as netCDF4; large arrays are compressed.

    Args:
      dataset: the dataset.
      path: path of the file.

    Raises:
      InputError: the file cannot be written.
    """
    encoding = {name: {"zlib": True, "complevel": 1} for name, array in dataset.items() if array.size > COMPRESSED_SIZE}
    # Made in memory: HDF5 crashes the process when the disk fills up under it.
    content = dataset.to_netcdf(engine="h5netcdf", encoding=encoding)
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def read_netcdf(path: Path) -> xr.Dataset:
    """Read a netCDF file into memory.

    Raises:
      InputError: it is missing or damaged.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return dataset.load()
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: run the stage that writes it first.") from error
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}): run the stage that writes it again.") from error


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, without its index.

    Args:
      table: the table.
      path: path of the file.

    Raises:
      InputError: the file cannot be written.
    """
    with whole_file(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")

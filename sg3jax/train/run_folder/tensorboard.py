"""Writes events for TensorBoard in the run's own thread.

The run thus notices when writing fails. The standard writer passes events to a
thread that dies on a full disk, and the run would wait for it forever.
"""

import importlib
import os
import pathlib
from collections.abc import Mapping


class EventsFile:
  """The file `events.out.tfevents.*` of one session.

  Args:
    workdir: The run folder.
    purge_step: Thousands of images from which TensorBoard hides what earlier
      sessions wrote; None to hide nothing.

  Raises:
    OSError: If the file cannot be created.
  """

  def __init__(
    self, workdir: str | os.PathLike[str], purge_step: int | None = None
  ):
    # Imported here because the import is slow and only a run needs it.
    from tensorboardX import event_file_writer

    # Protobuf creates this class at import, invisibly to type checkers.
    self._events = importlib.import_module('tensorboardX.proto.event_pb2')
    self._writer = event_file_writer.EventsWriter(
      str(pathlib.Path(workdir) / 'events')
    )
    if purge_step is not None:
      start = self._events.SessionLog(status=self._events.SessionLog.START)
      self._writer.write_event(
        self._events.Event(step=purge_step, session_log=start)
      )

  def add(
    self, values: Mapping[str, float], kimg: int, timestamp: float
  ) -> None:
    """Writes the values of one moment, and flushes them to the system.

    Args:
      values: Numbers by name.
      kimg: Thousands of images shown: the x axis.
      timestamp: Seconds since the epoch.

    Raises:
      OSError: If they cannot be written.
    """
    event = self._events.Event(wall_time=timestamp, step=kimg)
    for name, value in values.items():
      event.summary.value.add(tag=name, simple_value=value)
    self._writer.write_event(event)
    self._writer.flush()

  def close(self) -> None:
    """Closes the file."""
    self._writer.close()

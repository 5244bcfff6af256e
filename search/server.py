"""Imported by the server that workers are forked from, first of all and by nobody else.

A worker that is stopped would keep the server of a killed driver alive, as it holds the same pipe.
"""

from .nursery import end_with_parent

end_with_parent()

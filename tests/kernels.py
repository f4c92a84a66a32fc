"""Tests that need native kernels, which a machine without a C compiler does not have."""

import pytest

from fedmeta.learning.native.build import why_not
from fedmeta.learning.native.kernel import available

needs_kernels = pytest.mark.skipif(not available(), reason="" if available() else why_not())

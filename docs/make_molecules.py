"""Prints how well a molecule's results in the training assays alone rank it in the test assays.

    python docs/make_molecules.py tox21 sider

The score of a molecule is the share of training assays that it is active in, of those that measured it.
Neither its structure nor a result of the test assay is used.
"""

import sys

import numpy as np
import torch

from fedmeta.tasks.data.molecule_files import ACTIVE, UNMEASURED, read_assays
from fedmeta.tasks.families.molecules import TEST_ASSAYS
from fedmeta.tasks.objectives.screening import area_under_curve


def main() -> None:
    for source in sys.argv[1:]:
        assays = read_assays(source)
        first_test = len(assays.names) - TEST_ASSAYS[source]
        training = assays.results[:, :first_test]
        measured = (training != UNMEASURED).sum(1)
        share = (training == ACTIVE).sum(1) / np.maximum(measured, 1)
        areas = []
        for results in assays.results[:, first_test:].T:
            rows = (results != UNMEASURED) & (measured > 0)
            active = torch.from_numpy(results[rows] == ACTIVE)
            areas.append(float(area_under_curve(torch.from_numpy(share[rows]), active)))
        print(f"{source}: {np.mean(areas):.3f} ({', '.join(f'{one:.3f}' for one in areas)})")


if __name__ == "__main__":
    main()

"""The processor time of a what-if, and what carrying the kernel over as an operator saves.

Random arrays of the sizes that a worker stores: 100 measured images and 300 more, 1280 features, one thread. Beside it
the same simulation with the kernel of all images written out.

    OMP_NUM_THREADS=1 python -m perf.what_if
"""

import argparse
import dataclasses
import time

import numpy as np
from threadpoolctl import threadpool_limits

from app.domain.finetuning import Recipe
from app.forecasting import bilinear
from app.forecasting.feature_kernel import ClassKernel
from app.forecasting.kernel_extension import extended
from app.forecasting.linearisation import Linearisation
from app.forecasting.measured_network import MeasuredNetwork
from app.forecasting.question import Question, answer
from app.forecasting.training import Training

MEASURED, FURTHER, DIMENSIONS = 100, 300, 1280
CASES = ((5, 300), (10, 300), (10, 900), (20, 900))


def network(classes: int) -> MeasuredNetwork:
    """Return a network whose features tell the classes apart."""
    random = np.random.default_rng(0)
    labels_M = np.arange(MEASURED + FURTHER) % classes
    features_MD = random.standard_normal((classes, DIMENSIONS))[labels_M]
    features_MD += 0.5 * random.standard_normal(features_MD.shape)
    directions = classes - 1
    basis_DQ = np.linalg.qr(random.standard_normal((DIMENSIONS, directions)))[0]
    rows = random.standard_normal((MEASURED * directions, 400)) / 10
    return MeasuredNetwork(
        features_ND=features_MD.astype(np.float32),
        labels_N=labels_M.astype(np.int64),
        basis_DQ=basis_DQ.astype(np.float32),
        kernel=(rows @ rows.T).astype(np.float32),
        kind="class",
        train_images=MEASURED + FURTHER,
        architecture="timm:none",
        device="cpu",
        step_times=(),
    )


def written_out(carried: Linearisation) -> Linearisation:
    """Return the network with every entry of its kernel in memory."""
    directions, images = carried.num_directions, carried.num_images
    unit_PQN = np.eye(directions * images).reshape(-1, directions, images)
    values = carried.moved_QN(unit_PQN).reshape(directions, images, directions, images)
    return dataclasses.replace(carried, kernel=ClassKernel(values.astype(np.float32)))


def seconds(work: object) -> float:
    """Return the processor time of the fastest of three calls."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()  # type: ignore[operator]
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| classes | images | steps | what-if | simulation over that with the kernel written out |")
    print("|--:|--:|--:|--:|--:|")
    with threadpool_limits(1):
        for classes, steps in CASES:
            stored = network(classes)
            recipe = Recipe(learning_rates=(1e-4,), epochs=1000, max_steps=steps)
            carried = extended(stored.linearisation())
            dense = written_out(carried)
            training = Training.from_recipe(recipe, learning_rate=1e-4, images=stored.train_images)
            asked = seconds(lambda stored=stored, recipe=recipe: answer(stored, Question(recipe=recipe)))
            operator, matrix = (
                seconds(lambda one=one, training=training: bilinear.simulate(one, training, seeds=(0, 1, 2)))
                for one in (carried, dense)
            )
            print(
                f"| {classes} | {carried.num_images} | {steps} | {asked:.2f} s | {operator / matrix:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()

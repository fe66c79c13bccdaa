import pytest
import torch

from ppssl.losses.ais.head import StudentHead


def test_tau_student_stays_in_bounds_and_comes_back() -> None:
    head = StudentHead(6, 4, "linear")
    optimizer = torch.optim.SGD([head.log_temperature], lr=10.0)
    for sign, bound in ((1, 0.01), (-1, 1.0), (1, 0.01)):
        for _ in range(3):
            optimizer.zero_grad()
            (sign * head.temperature.log()).backward()
            optimizer.step()
        assert head.temperature.item() == pytest.approx(bound, rel=1e-5)

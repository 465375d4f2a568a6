import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import problem

import jaxnet
from jaxnet import activations, losses, plots


def drawn(figure):
    figure.savefig(io.BytesIO())
    return figure


def test_boundary_and_hidden_space():
    for hidden in (2, 4):
        params = jaxnet.init(jax.random.key(0), (2, hidden, 1), scheme="normal")
        figure = drawn(plots.boundary_and_hidden_space(params, *jaxnet.data.xor(), title="XOR"))
        plane, hidden_space = figure.axes[:2]
        assert (plane.get_xlabel(), hidden_space.get_xlabel()) == ("x₁", "hidden unit h₁")
        assert len(hidden_space.texts) == 4


def test_logits_are_shown_as_probabilities():
    params = jaxnet.init(jax.random.key(0), (2, 2, 1), scheme="normal")
    images = [
        drawn(plots.boundary_and_hidden_space(params, *jaxnet.data.xor(), net)).axes[0].collections[0].get_array()
        for net in (
            jaxnet.Network(loss=losses.cross_entropy),
            jaxnet.Network(output=activations.identity, loss=losses.cross_entropy),
        )
    ]
    np.testing.assert_array_equal(*images)


def test_boundary_needs_the_right_sizes():
    for sizes in ((2, 1), (3, 2, 1), (2, 3, 3, 1)):
        params, x, y = problem(sizes)
        with pytest.raises(ValueError, match=r"the network has sizes .*expected 2 inputs"):
            plots.boundary_and_hidden_space(params, x, y)


def test_cost_curves_are_logarithmic_where_they_can_be():
    figure = drawn(plots.cost_curves({"a": jnp.array([1.0, 0.1]), "b": [2.0, 0.2]}))
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b"]
    figure = drawn(plots.cost_curves({"a": [1.0, 0.0]}))
    assert figure.axes[0].get_yscale() == "linear"
    assert figure.axes[0].get_legend() is None


def test_first_layer_weights():
    params, *_ = problem((6, 10, 2))
    figure = drawn(plots.first_layer_weights(params, (2, 3), units=9))
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 9
    np.testing.assert_array_equal(images[3].get_array().ravel(), params[0].weight[3])
    assert len({image.get_clim() for image in images}) == 1
    with pytest.raises(ValueError, match=r"image_shape is \(3, 3\), but the first layer has 6 inputs"):
        plots.first_layer_weights(params, (3, 3))


def test_confusion_matrix():
    figure = drawn(plots.confusion_matrix([0, 0, 1, 2], [0, 1, 1, 2], "abc", title="three classes"))
    axes = figure.axes[0]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "1"), ((1, 0), "1"), ((1, 1), "1"), ((2, 2), "1"),
    }  # fmt: skip
    assert axes.get_ylabel() == "actual class"
    with pytest.raises(ValueError, match="predicted runs from -1 to 0, expected 0 to 2"):
        plots.confusion_matrix([0, 0], [0, -1], "abc")
    with pytest.raises(ValueError, match=r"actual has shape \(2,\) and predicted \(1,\)"):
        plots.confusion_matrix([0, 0], [0], "abc")

"""Run every benchmark with its default settings."""

from benchmarks import ensembles, graph, mnist_epoch, orientation, quantities

if __name__ == "__main__":
    mnist_epoch.main(mnist_epoch.Settings())
    orientation.main(orientation.Settings())
    graph.main(graph.Settings())
    quantities.main(quantities.Settings())
    ensembles.main(ensembles.Settings())

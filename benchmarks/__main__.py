"""Run every benchmark with its default settings."""

from benchmarks import ensembles, graph, mnist_epoch, orientation

if __name__ == "__main__":
    mnist_epoch.main(mnist_epoch.Settings())
    orientation.main(orientation.Settings())
    graph.main(graph.Settings())
    ensembles.main(ensembles.Settings())

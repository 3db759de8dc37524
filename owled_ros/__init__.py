"""OWLed pruning and driving for ROS 2; the generated messages of the same name are found beside these sources."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

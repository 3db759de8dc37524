"""The demonstration: starts source and driving node as processes, shows what they do, writes a report. Imports everything but rclpy."""

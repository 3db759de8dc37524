"""Recorded drives: rosbag2 bags in, time-aligned frames out, without ROS. Needs rosbags, numpy and OpenCV."""

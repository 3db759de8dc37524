"""The driving runtime on the vehicle, without ROS: newest image, ladder, inference thread, model loading, film. Needs numpy and OpenCV."""

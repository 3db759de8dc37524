"""The version of owled_ros. Needs nothing; package.xml, CITATION.cff and CHANGELOG.md say the same, a test holds it."""

VERSION = "0.1.0"

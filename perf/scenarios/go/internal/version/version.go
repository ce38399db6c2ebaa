// Package version says which source a program was built from.
package version

// Revision is the one value that the comparison changes: a one-line change of the source.
const Revision = 0

/** The one value that the comparison changes: a one-line change of the source. */
export const REVISION = 0;

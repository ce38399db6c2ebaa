package invalid.example.inventory;

/** Which source the program was built from. */
final class Revision {
    /** The one value that the comparison changes: a one-line change of the source. */
    static final int NUMBER = 0;

    private Revision() {}
}

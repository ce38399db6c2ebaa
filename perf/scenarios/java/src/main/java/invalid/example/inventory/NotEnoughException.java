package invalid.example.inventory;

/** More was wanted than is there. */
class NotEnoughException extends RuntimeException {
    NotEnoughException(String name, int there, int wanted) {
        super("there are %d of %s, %d were wanted".formatted(there, name, wanted));
    }
}

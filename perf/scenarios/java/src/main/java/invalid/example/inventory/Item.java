package invalid.example.inventory;

import jakarta.persistence.Column;
import jakarta.persistence.Entity;
import jakarta.persistence.GeneratedValue;
import jakarta.persistence.GenerationType;
import jakarta.persistence.Id;
import java.util.Objects;

/** Something that lies in the warehouse. */
@Entity
class Item {
    @Id
    @GeneratedValue(strategy = GenerationType.IDENTITY)
    private Long id;

    @Column(nullable = false, unique = true)
    private String name;

    @Column(nullable = false)
    private String description;

    @Column(nullable = false)
    private int quantity;

    protected Item() {}

    Item(String name, String description, int quantity) {
        this.name = Objects.requireNonNull(name);
        this.description = Objects.requireNonNull(description);
        this.quantity = quantity;
    }

    Long id() {
        return id;
    }

    String name() {
        return name;
    }

    String description() {
        return description;
    }

    int quantity() {
        return quantity;
    }

    /** Takes some out. Throws where there are fewer. */
    void take(int count) {
        if (count > quantity) {
            throw new NotEnoughException(name, quantity, count);
        }
        quantity -= count;
    }
}

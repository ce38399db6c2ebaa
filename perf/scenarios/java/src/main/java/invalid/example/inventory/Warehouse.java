package invalid.example.inventory;

import java.util.List;
import java.util.NoSuchElementException;
import org.jsoup.Jsoup;
import org.jsoup.safety.Safelist;
import org.springframework.stereotype.Service;
import org.springframework.transaction.annotation.Transactional;

/** Keeps items and gives them out. */
@Service
class Warehouse {
    private final Items items;

    Warehouse(Items items) {
        this.items = items;
    }

    /** Adds an item; of its description only harmless markup stays. */
    @Transactional
    Item add(String name, String description, int quantity) {
        return items.save(new Item(name, Jsoup.clean(description, Safelist.basic()), quantity));
    }

    @Transactional
    Item take(String name, int count) {
        Item item = items.findByName(name).orElseThrow(() -> new NoSuchElementException(name));
        item.take(count);
        return item;
    }

    @Transactional(readOnly = true)
    List<Item> scarce(int below) {
        return items.findByQuantityLessThanOrderByName(below);
    }

    /** All items as a spreadsheet. */
    @Transactional(readOnly = true)
    byte[] list() {
        return StockList.of(items.findAll());
    }
}

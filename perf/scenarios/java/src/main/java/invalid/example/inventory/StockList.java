package invalid.example.inventory;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.List;
import org.apache.poi.ss.usermodel.Row;
import org.apache.poi.ss.usermodel.Sheet;
import org.apache.poi.ss.usermodel.Workbook;
import org.apache.poi.xssf.usermodel.XSSFWorkbook;

/** All items as a spreadsheet. */
final class StockList {
    private StockList() {}

    static byte[] of(List<Item> items) {
        try (Workbook book = new XSSFWorkbook();
                ByteArrayOutputStream bytes = new ByteArrayOutputStream()) {
            Sheet sheet = book.createSheet("stock");
            for (Item item : items) {
                Row row = sheet.createRow(sheet.getPhysicalNumberOfRows());
                row.createCell(0).setCellValue(item.name());
                row.createCell(1).setCellValue(item.quantity());
            }
            book.write(bytes);
            return bytes.toByteArray();
        } catch (IOException error) {
            // Only memory is written to.
            throw new UncheckedIOException(error);
        }
    }
}

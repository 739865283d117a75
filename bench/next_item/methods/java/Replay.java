import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import reco.serenade.dataio.sessionloader.Row;
import reco.serenade.models.VMISkNN;

/** Walks test sessions through Serenade's VMISkNN: train, test, answers, k, m. */
public class Replay {
    public static void main(String[] arguments) throws IOException {
        List<Row> test = read(arguments[1]);
        VMISkNN model = new VMISkNN(Integer.parseInt(arguments[3]), Integer.parseInt(arguments[4]));
        List<Row> train = read(arguments[0]);
        long began = System.nanoTime();
        model.fit(train);
        double fitted = (System.nanoTime() - began) / 1e9;
        try (PrintWriter answers = new PrintWriter(arguments[2])) {
            answers.println(fitted);
            for (Row row : test) {
                long asked = System.nanoTime();
                String items = model.predict(row.getSessionId(), row.getItemId()).stream()
                    .map(found -> String.valueOf(found.getItemId())).collect(Collectors.joining(" "));
                answers.println((System.nanoTime() - asked) / 1e6 + " " + items);
            }
        }
    }

    private static List<Row> read(String path) throws IOException {
        List<Row> rows = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of(path))) {
            String[] fields = line.split("\t");
            rows.add(new Row(Integer.valueOf(fields[0]), Long.parseLong(fields[1]), Integer.parseInt(fields[2])));
        }
        return rows;
    }
}

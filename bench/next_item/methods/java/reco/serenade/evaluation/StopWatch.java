package reco.serenade.evaluation;

import java.util.ArrayList;
import java.util.List;

/** Stands in for Serenade's own, which would bring in a library for quantiles. */
public class StopWatch {
    private final List<PositionLatencyTuple> latencies = new ArrayList<>();
    private long began;

    public void start() {
        began = System.nanoTime();
    }

    public void stop(int position) {
        latencies.add(new PositionLatencyTuple(position, (System.nanoTime() - began) / 1000));
    }

    public List<PositionLatencyTuple> getLatencies() {
        return latencies;
    }
}

-- What `k1ops query metrics` reads, in the order in which it reads it: the values of a metric by
-- time for its trend, and by size for its percentiles.
CREATE INDEX IF NOT EXISTS k1_execution_metrics_by_time_idx
    ON public.k1_execution_metrics (metric_name, task_id, recorded_at, metric_value);
CREATE INDEX IF NOT EXISTS k1_execution_metrics_by_value_idx
    ON public.k1_execution_metrics (metric_name, task_id, metric_value, recorded_at);

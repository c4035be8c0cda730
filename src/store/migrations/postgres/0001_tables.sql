-- The four K1 tables. Every statement also holds on a database that the original init-db.sql
-- made: what is there stays as it is, what is missing is added, no row is touched.
-- Timestamps have no time zone and are UTC.

-- The extension needs the CREATE privilege on the database; without it, the server's own
-- gen_random_uuid() makes the ids (further down).
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public;
EXCEPTION
    WHEN insufficient_privilege OR undefined_file OR feature_not_supported OR undefined_object THEN
        RAISE NOTICE 'extension uuid-ossp is not to be had: %', SQLERRM;
END
$$;

CREATE TABLE IF NOT EXISTS public.k1_workflow_metadata (
    workflow_id uuid PRIMARY KEY,
    conductor_execution_id varchar(255) UNIQUE NOT NULL,
    created_at timestamp DEFAULT timezone('utc', now()),
    updated_at timestamp DEFAULT timezone('utc', now()),
    user_id varchar,
    source varchar DEFAULT 'MCP',
    tags jsonb,
    custom_metadata jsonb
);
ALTER TABLE public.k1_workflow_metadata
    ADD COLUMN IF NOT EXISTS created_at timestamp DEFAULT timezone('utc', now()),
    ADD COLUMN IF NOT EXISTS updated_at timestamp DEFAULT timezone('utc', now()),
    ADD COLUMN IF NOT EXISTS user_id varchar,
    ADD COLUMN IF NOT EXISTS source varchar DEFAULT 'MCP',
    ADD COLUMN IF NOT EXISTS tags jsonb,
    ADD COLUMN IF NOT EXISTS custom_metadata jsonb;

CREATE TABLE IF NOT EXISTS public.k1_execution_metrics (
    metric_id uuid PRIMARY KEY,
    workflow_id uuid REFERENCES public.k1_workflow_metadata (workflow_id) ON DELETE CASCADE,
    task_id varchar,
    metric_name varchar NOT NULL,
    metric_value numeric,
    metric_unit varchar,
    recorded_at timestamp DEFAULT timezone('utc', now()),
    tags jsonb
);
ALTER TABLE public.k1_execution_metrics
    ADD COLUMN IF NOT EXISTS task_id varchar,
    ADD COLUMN IF NOT EXISTS metric_name varchar NOT NULL,
    ADD COLUMN IF NOT EXISTS metric_value numeric,
    ADD COLUMN IF NOT EXISTS metric_unit varchar,
    ADD COLUMN IF NOT EXISTS recorded_at timestamp DEFAULT timezone('utc', now()),
    ADD COLUMN IF NOT EXISTS tags jsonb;

CREATE TABLE IF NOT EXISTS public.k1_quality_gates (
    gate_id uuid PRIMARY KEY,
    workflow_id uuid REFERENCES public.k1_workflow_metadata (workflow_id) ON DELETE CASCADE,
    task_id varchar NOT NULL,
    gate_name varchar NOT NULL,
    gate_threshold numeric,
    actual_value numeric,
    passed boolean NOT NULL,
    critical boolean DEFAULT false,
    checked_at timestamp DEFAULT timezone('utc', now()),
    details jsonb
);
ALTER TABLE public.k1_quality_gates
    ADD COLUMN IF NOT EXISTS task_id varchar NOT NULL,
    ADD COLUMN IF NOT EXISTS gate_name varchar NOT NULL,
    ADD COLUMN IF NOT EXISTS gate_threshold numeric,
    ADD COLUMN IF NOT EXISTS actual_value numeric,
    ADD COLUMN IF NOT EXISTS passed boolean NOT NULL,
    ADD COLUMN IF NOT EXISTS critical boolean DEFAULT false,
    ADD COLUMN IF NOT EXISTS checked_at timestamp DEFAULT timezone('utc', now()),
    ADD COLUMN IF NOT EXISTS details jsonb;

CREATE TABLE IF NOT EXISTS public.k1_agent_executions (
    execution_id uuid PRIMARY KEY,
    workflow_id uuid REFERENCES public.k1_workflow_metadata (workflow_id) ON DELETE CASCADE,
    task_id varchar NOT NULL,
    agent_type varchar NOT NULL,
    started_at timestamp NOT NULL,
    completed_at timestamp,
    status varchar,
    exit_code int,
    stdout_log text,
    stderr_log text,
    result_file_path text,
    metrics jsonb
);
ALTER TABLE public.k1_agent_executions
    ADD COLUMN IF NOT EXISTS task_id varchar NOT NULL,
    ADD COLUMN IF NOT EXISTS agent_type varchar NOT NULL,
    ADD COLUMN IF NOT EXISTS started_at timestamp NOT NULL,
    ADD COLUMN IF NOT EXISTS completed_at timestamp,
    ADD COLUMN IF NOT EXISTS status varchar,
    ADD COLUMN IF NOT EXISTS exit_code int,
    ADD COLUMN IF NOT EXISTS stdout_log text,
    ADD COLUMN IF NOT EXISTS stderr_log text,
    ADD COLUMN IF NOT EXISTS result_file_path text,
    ADD COLUMN IF NOT EXISTS metrics jsonb;

-- Ids make themselves, by the extension wherever it is installed. A default that is there stays.
DO $$
DECLARE
    maker text;
    id record;
BEGIN
    SELECT format('%I.uuid_generate_v4()', n.nspname) INTO maker
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.proname = 'uuid_generate_v4' AND p.pronargs = 0
    ORDER BY n.nspname = 'public' DESC, n.nspname
    LIMIT 1;
    FOR id IN
        SELECT * FROM (VALUES
            ('k1_workflow_metadata', 'workflow_id'),
            ('k1_execution_metrics', 'metric_id'),
            ('k1_quality_gates', 'gate_id'),
            ('k1_agent_executions', 'execution_id')) AS ids (tbl, col)
        WHERE NOT EXISTS (
            SELECT FROM pg_attribute a
            WHERE a.attrelid = ('public.' || ids.tbl)::regclass
                AND a.attname = ids.col AND a.atthasdef)
    LOOP
        EXECUTE format('ALTER TABLE public.%I ALTER COLUMN %I SET DEFAULT %s',
            id.tbl, id.col, coalesce(maker, 'gen_random_uuid()'));
    END LOOP;
END
$$;

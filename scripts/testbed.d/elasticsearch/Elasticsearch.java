import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.regex.Pattern;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.reindex.ReindexPlugin;
import org.elasticsearch.transport.Netty4Plugin;

/**
 * Starts a real Elasticsearch node the way the official image does: settings come from
 * config/elasticsearch.yml and, before it, from environment variables that look like settings.
 */
public final class Elasticsearch {
    private static final Path HOME = Path.of("/usr/share/elasticsearch");
    private static final Pattern SETTING = Pattern.compile("[a-z0-9_]+(\\.[a-z0-9_]+)+");

    /** The constructor that takes plugins is for subclasses. */
    private static final class PluggedNode extends Node {
        PluggedNode(Settings settings) {
            super(
                InternalSettingsPreparer.prepareEnvironment(
                    settings, Map.of(), HOME.resolve("config"), () -> "elasticsearch"),
                List.of(Netty4Plugin.class, ReindexPlugin.class),
                false);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Settings.Builder settings = Settings.builder()
            .put("path.home", HOME)
            .put("http.type", "netty4")
            .put("transport.type", "netty4");
        System.getenv().forEach((name, value) -> {
            // There is no x-pack in this node, so its switches have nothing to turn.
            if (SETTING.matcher(name).matches() && !name.startsWith("xpack.")) {
                settings.put(name, value);
            }
        });
        PluggedNode node = new PluggedNode(settings.build());
        CountDownLatch ended = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
            } catch (Exception problem) {
                problem.printStackTrace();
            }
            ended.countDown();
        }));
        node.start();
        ended.await();
    }
}

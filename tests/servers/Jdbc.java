// PostgreSQL's JDBC driver against a running Tarn, as programs and tools use it.
//
// usage: java -cp postgresql.jar Jdbc.java HOST:PORT        (prints `all checks passed`, or what failed)

import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.postgresql.PGConnection;

public class Jdbc {
    interface Check {
        void run() throws Exception;
    }

    static String url;
    static final Map<String, Check> CHECKS = new LinkedHashMap<>();
    static final OffsetDateTime AT = OffsetDateTime.of(2026, 5, 1, 8, 0, 0, 500_000_000, ZoneOffset.UTC);

    static Connection connect(String options) throws SQLException {
        return DriverManager.getConnection(url + options, "ann", "");
    }

    static void same(Object found, Object expected) {
        if (!(found == null ? expected == null : found.equals(expected))) {
            throw new AssertionError("`" + found + "` instead of `" + expected + "`");
        }
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> values = new ArrayList<>();
        while (rows.next()) values.add(rows.getString(name));
        return values;
    }

    static void holds(boolean condition, Object what) {
        if (!condition) throw new AssertionError(String.valueOf(what));
    }

    public static void main(String[] arguments) {
        url = "jdbc:postgresql://" + arguments[0] + "/tarn";

        CHECKS.put("a statement is prepared, named after five times, and then answered in binary", () -> {
            for (String options : new String[] {"", "?prepareThreshold=-1", "?prepareThreshold=1", "?prepareThreshold=0",
                    "?preferQueryMode=simple", "?preferQueryMode=extendedForPrepared", "?preferQueryMode=extendedCacheEverything"}) {
                // Put into the text, a truth value is a string there.
                String paid = options.contains("=simple") ? "CAST(? AS BOOLEAN)" : "?";
                try (Connection connection = connect(options);
                        PreparedStatement statement = connection.prepareStatement("SELECT id, city, price, at, day, paid, weight FROM sales WHERE id = ? AND paid = " + paid)) {
                    for (long id = 0; id < 24; id += 2) {
                        statement.setLong(1, id);
                        statement.setBoolean(2, true);
                        try (ResultSet row = statement.executeQuery()) {
                            holds(row.next(), options + " " + id);
                            same(row.getLong("id"), id);
                            same(row.getString(2), new String[] {"Oslo", "Lima", "Pune"}[(int) (id % 3)]);
                            same(row.getBigDecimal("price"), new BigDecimal(id + ".25"));
                            same(row.getObject("at", OffsetDateTime.class), AT);
                            same(row.getDate("day"), Date.valueOf("2026-05-01"));
                            same(row.getBoolean("paid"), true);
                            same(row.getDouble("weight"), 0.5);
                            holds(!row.next(), "one row");
                        }
                    }
                }
            }
        });

        CHECKS.put("values of all types are bound", () -> {
            for (String options : new String[] {"", "?prepareThreshold=-1", "?preferQueryMode=simple"}) {
                try (Connection connection = connect(options);
                        PreparedStatement statement = connection.prepareStatement(
                                "SELECT count(*) FROM sales WHERE id < ? AND city = ? AND price < ? AND at = ? AND day = ? AND weight >= ? AND (? IS NULL OR city = ?)")) {
                    for (int round = 0; round < 8; round += 1) {
                        statement.setInt(1, 300);
                        statement.setString(2, "Oslo");
                        statement.setBigDecimal(3, new BigDecimal("150.00"));
                        statement.setObject(4, AT);
                        // Put into the text, a `Date` has a zone behind it, which no day has here.
                        if (options.contains("=simple")) statement.setObject(5, LocalDate.of(2026, 5, 1));
                        else statement.setDate(5, Date.valueOf("2026-05-01"));
                        statement.setDouble(6, 0.25);
                        statement.setString(7, null);
                        statement.setString(8, null);
                        try (ResultSet row = statement.executeQuery()) {
                            holds(row.next(), "a row");
                            same(row.getLong(1), 50L);
                        }
                    }
                }
            }
        });

        CHECKS.put("rows come in pieces of the fetch size", () -> {
            for (String options : new String[] {"", "?prepareThreshold=-1"}) {
                try (Connection connection = connect(options)) {
                    connection.setAutoCommit(false);
                    try (PreparedStatement statement = connection.prepareStatement("SELECT id FROM sales ORDER BY id")) {
                        statement.setFetchSize(64);
                        for (int round = 0; round < 7; round += 1) {
                            long next = 0;
                            try (ResultSet rows = statement.executeQuery()) {
                                while (rows.next()) same(rows.getLong(1), next++);
                            }
                            same(next, 1000L);
                        }
                        // Two at once, and one that is left early.
                        try (ResultSet first = statement.executeQuery();
                                Statement other = connection.createStatement();
                                ResultSet second = other.executeQuery("SELECT id FROM sales ORDER BY id DESC")) {
                            for (int at = 0; at < 100; at += 1) {
                                holds(first.next() && second.next(), at);
                                same(first.getLong(1) + second.getLong(1), 999L);
                            }
                        }
                    }
                    connection.commit();
                }
            }
        });

        CHECKS.put("metadata tells tables, views, columns and types", () -> {
            try (Connection connection = connect("")) {
                DatabaseMetaData data = connection.getMetaData();
                same(data.getDatabaseProductName(), "PostgreSQL");
                holds(data.getDatabaseProductVersion().startsWith("14.0"), data.getDatabaseProductVersion());
                Set<String> schemas = new TreeSet<>(column(data.getSchemas(), "TABLE_SCHEM"));
                holds(schemas.containsAll(List.of("lake", "live", "public")), schemas);
                same(column(data.getCatalogs(), "TABLE_CAT"), List.of("tarn"));
                List<String> tables = column(data.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME");
                holds(tables.contains("sales") && !tables.contains("by_city"), tables);
                same(column(data.getTables(null, "public", "by\\_%", new String[] {"VIEW"}), "TABLE_NAME"), List.of("by_city"));
                holds(column(data.getTableTypes(), "TABLE_TYPE").contains("TABLE"), "types of tables");
                Map<String, String> types = new LinkedHashMap<>();
                try (ResultSet columns = data.getColumns(null, "public", "sales", "%")) {
                    while (columns.next()) types.put(columns.getString("COLUMN_NAME"), columns.getString("TYPE_NAME") + " " + columns.getString("IS_NULLABLE"));
                }
                same(types.get("id"), "int8 NO");
                same(types.get("price"), "numeric YES");
                same(types.get("at"), "timestamptz YES");
                try (ResultSet columns = data.getColumns(null, "public", "sales", "price")) {
                    holds(columns.next(), "price");
                    same(columns.getInt("COLUMN_SIZE"), 10);
                    same(columns.getInt("DECIMAL_DIGITS"), 2);
                }
                holds(column(data.getTypeInfo(), "TYPE_NAME").contains("int8"), "types");
                same(column(data.getPrimaryKeys(null, "public", "sales"), "COLUMN_NAME"), List.of());
                same(column(data.getImportedKeys(null, "public", "sales"), "FKCOLUMN_NAME"), List.of());
                same(column(data.getExportedKeys(null, "public", "sales"), "FKCOLUMN_NAME"), List.of());
                same(column(data.getIndexInfo(null, "public", "sales", false, true), "INDEX_NAME"), List.of());
                same(column(data.getBestRowIdentifier(null, "public", "sales", DatabaseMetaData.bestRowSession, true), "COLUMN_NAME"), List.of());
                same(column(data.getProcedures(null, "public", "%"), "PROCEDURE_NAME"), List.of());
                same(column(data.getFunctions(null, "public", "%"), "FUNCTION_NAME"), List.of());
                same(column(data.getUDTs(null, "public", "%", null), "TYPE_NAME"), List.of());
                data.getTablePrivileges(null, "public", "sales").close();
                data.getColumnPrivileges(null, "public", "sales", "%").close();
                data.getClientInfoProperties().close();
                holds(data.getSQLKeywords() != null, "keywords");
                holds(data.getMaxColumnNameLength() > 0, "the length of a name");
            }
        });

        CHECKS.put("an answer tells its own columns", () -> {
            try (Connection connection = connect("");
                    Statement statement = connection.createStatement();
                    ResultSet rows = statement.executeQuery("SELECT s.id, s.*, count(*) OVER () AS n, [1, 2] AS numbers FROM sales s ORDER BY s.id LIMIT 1")) {
                var data = rows.getMetaData();
                same(data.getColumnName(1), "id");
                same(data.getColumnTypeName(1), "int8");
                holds(rows.next(), "a row");
                same(rows.getLong("n"), 1000L);
                Array numbers = rows.getArray("numbers");
                same(List.of((Object[]) numbers.getArray()), List.of(1L, 2L));
            }
        });

        CHECKS.put("errors have SQLSTATEs, and a transaction goes on after a rollback", () -> {
            try (Connection connection = connect("")) {
                connection.setAutoCommit(false);
                for (String[] wrong : new String[][] {{"SELECT wrod FROM sales", "42703"}, {"SELECT * FROM saels", "42P01"}, {"SELEC 1", "42601"},
                        {"DELETE FROM sales", "25006"}, {"INSERT INTO sales (id) VALUES (1)", "25006"}, {"CREATE TABLE t (a int)", "25006"}}) {
                    try (Statement statement = connection.createStatement()) {
                        statement.execute(wrong[0]);
                        throw new AssertionError(wrong[0] + " was answered");
                    } catch (SQLException error) {
                        same(error.getSQLState(), wrong[1]);
                    }
                    connection.rollback();
                }
                var savepoint = connection.setSavepoint();
                connection.rollback(savepoint);
                connection.releaseSavepoint(connection.setSavepoint("s"));
                try (ResultSet row = connection.createStatement().executeQuery("SELECT 1")) {
                    holds(row.next(), "a row");
                }
                connection.commit();
            }
        });

        CHECKS.put("a statement is cancelled, by itself and by the clock", () -> {
            String endless = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value < b.value";
            try (Connection connection = connect("?cancelSignalTimeout=10"); Statement statement = connection.createStatement()) {
                statement.setQueryTimeout(1);
                try {
                    statement.executeQuery(endless);
                    throw new AssertionError("it was answered");
                } catch (SQLException error) {
                    same(error.getSQLState(), "57014");
                }
                statement.setQueryTimeout(0);
                Thread canceller = new Thread(() -> {
                    try {
                        Thread.sleep(300);
                        statement.cancel();
                    } catch (Exception error) {
                        throw new AssertionError(error);
                    }
                });
                canceller.start();
                try {
                    statement.executeQuery(endless);
                    throw new AssertionError("it was answered");
                } catch (SQLException error) {
                    same(error.getSQLState(), "57014");
                }
                canceller.join();
                same(connection.isValid(5), true);
            }
        });

        CHECKS.put("a connection is set as pools set it", () -> {
            try (Connection connection = connect("?ApplicationName=pool&options=-c%20statement_timeout=60000&currentSchema=public&readOnly=true")) {
                connection.setReadOnly(true);
                connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
                connection.setAutoCommit(false);
                try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery("SELECT count(*) FROM sales")) {
                    holds(row.next(), "a row");
                }
                connection.commit();
                connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
                same(connection.getSchema(), "public");
                connection.setSchema("public");
                connection.setClientInfo("ApplicationName", "another");
                same(connection.isValid(5), true);
                connection.setNetworkTimeout(Runnable::run, 5000);
                same(connection.getWarnings(), null);
            }
        });

        CHECKS.put("rows are copied out", () -> {
            try (Connection connection = connect("")) {
                StringWriter text = new StringWriter();
                long rows = connection.unwrap(PGConnection.class).getCopyAPI().copyOut("COPY (SELECT id, city FROM sales ORDER BY id LIMIT 2) TO STDOUT (FORMAT csv, HEADER)", text);
                same(rows, 2L);
                same(text.toString(), "id,city\n0,Oslo\n1,Lima\n");
            }
        });

        int failed = 0;
        for (var check : CHECKS.entrySet()) {
            try {
                check.getValue().run();
                System.out.println("passed " + check.getKey());
            } catch (Throwable error) {
                failed += 1;
                System.out.println("FAILED " + check.getKey() + ": " + error);
                error.printStackTrace(System.out);
            }
        }
        System.out.println(failed == 0 ? "all checks passed" : failed + " checks failed");
        System.exit(failed == 0 ? 0 : 1);
    }
}

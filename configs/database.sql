-- A small shop for database.toml: sqlite3 configs/shop.sqlite < configs/database.sql
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT);
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price DECIMAL(10, 2) NOT NULL);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer INTEGER NOT NULL REFERENCES customers,
    product INTEGER NOT NULL REFERENCES products,
    amount DECIMAL(10, 2) NOT NULL,
    at TIMESTAMP NOT NULL
);
INSERT INTO customers VALUES (1, 'Ada', 'London'), (2, 'Grace', 'New York'), (3, 'Edsger', NULL);
INSERT INTO products VALUES (1, 'Tea', '4.50'), (2, 'Kettle', '39.90');
INSERT INTO orders VALUES
    (1, 1, 1, '9.00', '2026-01-02 10:00:00'),
    (2, 2, 2, '39.90', '2026-01-02 10:05:00'),
    (3, 1, 2, '39.90', '2026-01-03 09:30:00');

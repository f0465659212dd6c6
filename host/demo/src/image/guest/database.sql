pragma journal_mode = wal;
pragma synchronous = full;
create table if not exists entry (n integer primary key, made integer not null, content blob not null);

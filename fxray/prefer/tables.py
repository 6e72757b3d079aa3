"""The tables of a study file. Rows of votes are never changed but for the time at which one was undone.

In a pair, annotation a is the one whose source was named first; which one stands on the left is drawn for each rater.
"""

VERSION = 1
"""Of the tables, kept as SQLite's `user_version`."""

APPLICATION_ID = 0x66785052
"""SQLite's `application_id` of every study file."""

TABLES = """
CREATE TABLE study (facts TEXT NOT NULL);
CREATE TABLE source (source_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE image (
    image_id INTEGER PRIMARY KEY, sample_id TEXT NOT NULL UNIQUE,
    width_px INTEGER NOT NULL, height_px INTEGER NOT NULL, jpeg BLOB NOT NULL
);
CREATE TABLE annotation (
    annotation_id INTEGER PRIMARY KEY, image_id INTEGER NOT NULL REFERENCES image,
    source_id INTEGER REFERENCES source, -- null for both sides of an attention check
    verdict TEXT, regions TEXT NOT NULL
);
CREATE TABLE pair (
    pair_id INTEGER PRIMARY KEY, image_id INTEGER NOT NULL REFERENCES image,
    a INTEGER NOT NULL REFERENCES annotation, b INTEGER NOT NULL REFERENCES annotation,
    is_check INTEGER NOT NULL -- an attention check: a is the truth, b is plainly wrong
);
CREATE TABLE rater (
    rater_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL CHECK (kind IN ('human', 'judge')),
    token_sha256 TEXT UNIQUE, added_at TEXT NOT NULL
);
CREATE TABLE assignment (
    rater_id INTEGER NOT NULL REFERENCES rater, position INTEGER NOT NULL, pair_id INTEGER NOT NULL REFERENCES pair,
    is_swapped INTEGER NOT NULL, -- a stands on the right
    PRIMARY KEY (rater_id, position), UNIQUE (rater_id, pair_id)
);
CREATE TABLE vote (
    number INTEGER PRIMARY KEY, vote_id TEXT NOT NULL UNIQUE,
    rater_id INTEGER NOT NULL, position INTEGER NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'neutral')),
    seconds REAL, cast_at TEXT NOT NULL, undone_at TEXT,
    FOREIGN KEY (rater_id, position) REFERENCES assignment (rater_id, position)
);
CREATE UNIQUE INDEX one_vote ON vote (rater_id, position) WHERE undone_at IS NULL;
CREATE TABLE bad_answer (
    rater_id INTEGER NOT NULL, position INTEGER NOT NULL, answer TEXT NOT NULL, given_at TEXT NOT NULL,
    FOREIGN KEY (rater_id, position) REFERENCES assignment (rater_id, position)
);
"""

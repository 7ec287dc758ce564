-- A thumbnail is a file of its own for other nodes: of which file it is one.
ALTER TABLE media ADD COLUMN thumbnail_of TEXT;
CREATE INDEX media_thumbnails ON media (origin, thumbnail_of) WHERE thumbnail_of IS NOT NULL;

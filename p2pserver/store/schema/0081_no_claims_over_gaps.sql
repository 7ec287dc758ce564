-- How many servers lacked an event: no claim stands in for one any more.
DROP TABLE missing_contacts;
